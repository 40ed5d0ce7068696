# syntax=docker/dockerfile:1
# The control plane: planning, orchestrator, context, monitoring and the command `fleet`. Build it from the repository's root:
#   docker build -f deploy/docker/control-plane.Dockerfile -t swe-ai-fleet/control-plane:0.1.0 .
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /build
RUN python -m venv /opt/fleet
COPY requirements/control.lock requirements/dev.lock requirements/
RUN /opt/fleet/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/control.lock
# What builds our own packages comes from a lock file too; it stays in this stage.
RUN awk '/^setuptools==/ {found = 1} found {print} found && !/\\$/ {exit}' requirements/dev.lock > requirements/build.lock \
    && pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/build.lock
COPY packages/wire packages/wire
COPY packages/fleet packages/fleet
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels packages/wire packages/fleet \
    && /opt/fleet/bin/pip install --no-cache-dir --no-deps /wheels/*.whl \
    && /opt/fleet/bin/pip uninstall --yes pip

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin fleet
COPY --from=build /opt/fleet /opt/fleet
ENV PATH=/opt/fleet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NICEGUI_STORAGE_PATH=/tmp/nicegui \
    BIND_HOST=0.0.0.0 \
    LOG_FORMAT=json
WORKDIR /tmp
USER 10001:10001
CMD ["fleet", "--help"]
