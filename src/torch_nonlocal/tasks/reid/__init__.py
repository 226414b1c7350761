"""Re-identification: networks that embed tracklets, their training and their evaluation."""
