# syntax=docker/dockerfile:1
# The executor, with the Python and the Ray of your cluster. Build it from the repository's root:
#   docker build -f deploy/docker/executor.Dockerfile -t swe-ai-fleet/executor:0.1.0-py3.9-ray2.49.2 .
#   docker build -f deploy/docker/executor.Dockerfile --build-arg PYTHON=3.13 --build-arg RAY=2.60.0 ...
ARG PYTHON=3.9

FROM python:${PYTHON}-slim AS build
ARG PYTHON
ARG RAY=2.49.2
WORKDIR /build
RUN python -m venv /opt/fleet
COPY deploy/docker/executor-lock deploy/docker/executor-lock
COPY requirements/*.lock requirements/
RUN lock=$(sh deploy/docker/executor-lock "$PYTHON" "$RAY" requirements) \
    && /opt/fleet/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r "$lock"
# What builds our own packages comes from a lock file too; it stays in this stage.
RUN awk '/^setuptools==/ {found = 1} found {print} found && !/\\$/ {exit}' requirements/executor-py39-dev.lock > requirements/build.lock \
    && pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/build.lock
COPY packages/wire packages/wire
COPY packages/executor packages/executor
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels packages/wire packages/executor \
    && /opt/fleet/bin/pip install --no-cache-dir --no-deps /wheels/*.whl \
    && /opt/fleet/bin/pip uninstall --yes pip

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin fleet
COPY --from=build /opt/fleet /opt/fleet
ENV PATH=/opt/fleet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    BIND_HOST=0.0.0.0 \
    LOG_FORMAT=json \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /tmp
USER 10001:10001
CMD ["fleet-executor"]
