"""What the model sees: from any photo to a reference picture; the only room with OpenCV."""
