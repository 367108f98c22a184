# The service, the worker and the command line in one image.
# It installs as a newcomer does: the Makefile's steps, the versions of constraints.txt.
FROM python:3.11-slim-bookworm

RUN apt-get update \
 && apt-get install -y --no-install-recommends make \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 resight \
 && install -d -o resight -g resight /app /data /keys

USER resight
WORKDIR /app
COPY --chown=resight:resight . .

# For an image without CUDA, several GB smaller, name PyTorch's index of CPU builds:
# --build-arg PIP_EXTRA_INDEX_URL=…
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_NO_CACHE_DIR=1
RUN make models

ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RESIGHT_DATA_DIR=/data \
    RESIGHT_HOST=0.0.0.0
VOLUME ["/data"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["resight"]
CMD ["serve"]
