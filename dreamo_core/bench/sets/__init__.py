"""One file a family of data sets: how its folder is read into cases."""
