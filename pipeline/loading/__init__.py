"""From disk to tensors: images, networks, victims, weights from elsewhere."""
