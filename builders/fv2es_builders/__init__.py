"""The model in PyTorch, and what makes verified, servable files of it. Import from the modules; this one does nothing."""
