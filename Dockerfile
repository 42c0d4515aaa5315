# The gateway with its embedded default backend (llama.cpp and SmolLM2-135M), as an unprivileged user, state in /data.
#
#     docker build -t weir .
#     docker run -p 8080:8080 -v weir-data:/data weir                                          # SQLite and the embedded model
#     docker run -p 8080:8080 -v weir-data:/data -v ./weir.yaml:/etc/weir/weir.yaml:ro -e WEIR_CONFIG=/etc/weir/weir.yaml weir
#
# EXTRAS="" leaves the embedded backend out (200 MB less). Any Debian-based image with Python 3.11 or newer and venv can be the base.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS="--extra local --extra pdf"
ARG UV_VERSION=0.13.9
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir "uv==${UV_VERSION}"
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1
WORKDIR /app
# The dependencies first: they change less often than the code, and their layer is kept.
COPY pyproject.toml uv.lock README.md LICENSE ./
# hadolint ignore=SC2086
RUN /opt/uv/bin/uv sync --locked --no-default-groups --no-install-project ${EXTRAS}
COPY gateway gateway
COPY backends backends
COPY billing billing
# hadolint ignore=SC2086
RUN /opt/uv/bin/uv sync --locked --no-default-groups --no-editable ${EXTRAS}

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 weir \
    && useradd --uid 10001 --gid 10001 --no-log-init --home-dir /data --shell /usr/sbin/nologin weir \
    && mkdir -p /data && chown weir:weir /data
COPY --from=build /app/.venv /app/.venv
ENV PATH="/app/.venv/bin:$PATH" PYTHONUNBUFFERED=1 WEIR_DATA_DIR=/data WEIR_SERVER__HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=2)"]
ENTRYPOINT ["weir"]
CMD ["serve"]
