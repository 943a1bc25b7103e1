"""Songs of a data set, cached stems, augmentation, training and validation examples."""
