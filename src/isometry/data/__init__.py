"""Images: a source's files, decoded once into uint8 tensors, served from the training device."""
