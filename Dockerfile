# The page of "spleeter web" in a container (docs/web.md). Not built where it was written: no Docker was at hand.
#
#   docker build -t spleeter-2 .
#   docker run -p 8765:8765 -e SPLEETER_WEB_TOKEN=a-long-secret -v songs:/songs spleeter-2
#
# Then open http://localhost:8765/?token=a-long-secret

FROM python:3.12-slim

WORKDIR /src
COPY setup.py pyproject.toml README.md LICENSE ./
COPY spleeter_2 spleeter_2
COPY weight_converter weight_converter
COPY evaluation evaluation
# ffmpeg comes with the package imageio-ffmpeg, libsndfile with soundfile
RUN pip install --no-cache-dir ".[web]" && rm -rf /src

RUN useradd --create-home spleeter && install -d -o spleeter -m 700 /songs
USER spleeter
WORKDIR /home/spleeter
VOLUME /songs
EXPOSE 8765

HEALTHCHECK --interval=30s --timeout=5s CMD python -c "import os, urllib.request as r; r.urlopen(r.Request('http://127.0.0.1:8765/api/models', headers={'Authorization': 'Bearer ' + os.environ['SPLEETER_WEB_TOKEN']}))"

# "exec" form: signals reach the program, which ends after the window in work
CMD ["spleeter", "web", "--host", "0.0.0.0", "--no-browser", "--folder", "/songs"]
