# syntax=docker/dockerfile:1
# Any Debian 12 base with python3 >= 3.11 will do: --build-arg BASE=my-debian:tag
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
RUN apt-get -qq update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev libsystemd-dev pkg-config python3-dev python3-venv
WORKDIR /src
COPY requirements requirements
# A separate environment builds the wheels, so that pip and setuptools stay out of the image.
RUN python3 -m venv /build \
 && /build/bin/pip install --require-hashes -r requirements/build.txt \
 && /build/bin/pip wheel --require-hashes --no-deps -w /wheels -r requirements/runtime.txt \
 && /build/bin/pip wheel --require-hashes --no-deps --no-build-isolation --use-pep517 -w /wheels -r requirements/journald.txt
COPY . .
# --compile: without .pyc files every start costs a second of CPU and more memory, on a node that is short of both.
RUN /build/bin/pip wheel --no-deps --no-build-isolation -w /wheels . \
 && python3 -m venv --without-pip /opt/oom-collector \
 && /build/bin/pip --python /opt/oom-collector/bin/python install --no-index --no-deps --compile /wheels/*.whl

FROM ${BASE}
RUN apt-get -qq update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends libsystemd0 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/oom-collector /opt/oom-collector
ENV PATH=/opt/oom-collector/bin:$PATH
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="oom-collector" \
      org.opencontainers.image.description="Reads the kernel log and tells who was OOM-killed, in which pod, whose limit was hit and why" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Root, because only root opens /dev/kmsg. The read-only root file system comes from the pod.
ENTRYPOINT ["oom-collector"]
CMD ["run"]
