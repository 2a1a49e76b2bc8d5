"""Teachers by name: from timm, torchvision, transformers, ONNX files and the user's own code."""
