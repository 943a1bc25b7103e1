"""Audio files through ffmpeg, resampling, and the STFT."""
