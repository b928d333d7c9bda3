"""The main job, shown step by step on a real file system image: python -m cdp.demo."""
