"""The model in PyTorch. Parameter names are those of the published FV2ES checkpoints, so that their weights fit."""
