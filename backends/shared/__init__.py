"""Code that the backends share; nothing here handles a framework's tensors."""
