"""Audio in and out through ffmpeg, resampling and the STFT."""
