"""Video files in and out: frames by their exact index, clips as MP4 and GIF.

PyAV (which ships its own FFmpeg) and Pillow are imported when a function needs them; a missing one raises an
ImportError that names `pip install 'torch-nonlocal[video]'`.
"""

from torch_nonlocal.video.decode import VideoInfo, probe, read_clip
from torch_nonlocal.video.encode import write_gif, write_mp4

__all__ = ["VideoInfo", "probe", "read_clip", "write_gif", "write_mp4"]
