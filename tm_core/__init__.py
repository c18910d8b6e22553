"""Engine of the TalkingMachines node pack (arXiv 2506.03099); never imports ComfyUI."""

__version__ = "0.1.0"
