"""What every picture that the package draws is made of: colours, type, sheets of images, curves. Knows no models."""
