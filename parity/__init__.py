"""What this project is compared with: numbers recorded from other people's code (goldens/) and their recorders, networks and files
filled by a formula, a real ComfyUI and how it is driven. Tests and benchmarks import from here, never the other way.
"""
