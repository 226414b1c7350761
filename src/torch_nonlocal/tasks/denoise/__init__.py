"""Denoising: from a folder of images to a tested network, and files of images and videos."""
