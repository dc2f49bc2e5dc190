"""From images to files: what a trained network says of images of any size, and how it is written."""
