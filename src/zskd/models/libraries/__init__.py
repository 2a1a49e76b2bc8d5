"""Networks of other libraries, rebuilt from a card: timm, torchvision, transformers, and ONNX files."""
