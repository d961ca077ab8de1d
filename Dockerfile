# syntax=docker/dockerfile:1
# Any Debian base with python3 >= 3.11 will do, best by digest: --build-arg BASE=my-debian@sha256:...
# No step depends on the architecture. An index of one's own: --secret id=pip,src=pip.conf
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
RUN apt-get -qq update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev libsystemd-dev pkg-config python3-dev python3-venv
WORKDIR /src
COPY requirements requirements
# A separate environment builds the wheels, so that pip and setuptools stay out of the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /build \
 && /build/bin/pip install --require-hashes -r requirements/build.txt \
 && /build/bin/pip wheel --require-hashes --no-deps -w /wheels -r requirements/runtime.txt \
 && /build/bin/pip wheel --require-hashes --no-deps --no-build-isolation --use-pep517 -w /wheels -r requirements/journald.txt
COPY . .
# --compile: without .pyc files every start costs a second of CPU and more memory, on a node that is short of both.
RUN /build/bin/pip wheel --no-index --no-deps --no-build-isolation -w /wheels . \
 && python3 -m venv --without-pip /usr/local/lib/oom-collector \
 && /build/bin/pip --python /usr/local/lib/oom-collector/bin/python install --no-index --no-deps --compile /wheels/*.whl \
 && ln -s ../lib/oom-collector/bin/oom-collector /usr/local/bin/oom-collector

FROM ${BASE}
RUN apt-get -qq update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends ca-certificates libsystemd0 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/*.log /var/log/apt
COPY --from=build /usr/local/lib/oom-collector /usr/local/lib/oom-collector
COPY --from=build /usr/local/bin/oom-collector /usr/local/bin/oom-collector
# What is in here, Debian's packages and Python's: CycloneDX.
COPY deploy/sbom.py /tmp/sbom.py
RUN /usr/local/lib/oom-collector/bin/python /tmp/sbom.py >/usr/local/lib/oom-collector/sbom.cdx.json && rm /tmp/sbom.py
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="oom-collector" \
      org.opencontainers.image.description="Reads the kernel log and tells who was OOM-killed, in which pod, whose limit was hit and why" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Root, because only root opens /dev/kmsg and has CAP_SYSLOG in a pod; it starts as any other user, too. The read-only
# root file system comes from the pod.
ENTRYPOINT ["oom-collector"]
CMD ["run"]
