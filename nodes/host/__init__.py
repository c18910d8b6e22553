"""All that knows ComfyUI: its versions, folders, data, models and memory. The nodes beside this folder know none of it."""
