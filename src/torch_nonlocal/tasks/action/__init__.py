"""Action recognition: from a folder of clips to a tested network."""
