# The server on a CPU, with the bundled model. It needs no network once it is built.
#
#     docker build -t pipeline-webserver . && docker run --cpus 2 -p 8000:8000 pipeline-webserver
#
# Another model: mount its folder (-v ./my-classifier:/model:ro -e PIPELINE_MODEL=/model), or bake it in, by an image
# FROM this one that COPYs it to /model and sets PIPELINE_MODEL.

FROM python:3.11-slim AS packages
# PyPI's torch brings CUDA along; these are the same versions for a CPU.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# Before the code is there: a layer of a gigabyte that changes only when these files do.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
print(*project['dependencies'], *extras['media'], *extras['tables'], sep='\n')" > requirements.txt \
    && pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt -r requirements.txt

FROM python:3.11-slim
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY pipeline_webserver pipeline_webserver
COPY server.py batching.py config.py ./
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    PIPELINE_LOG_FORMAT=json
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=300s --interval=10s --timeout=5s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Not through a shell: SIGTERM has to reach the server.
CMD ["uvicorn", "server:app", "--host", "0.0.0.0", "--port", "8000"]
