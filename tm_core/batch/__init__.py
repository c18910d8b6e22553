"""Many portraits and many voices: a manifest becomes a folder of videos, resumable at any moment, on one machine or several."""
