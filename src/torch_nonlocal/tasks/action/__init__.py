"""Action recognition: from a folder of videos to a tested network."""
