# troth for a cluster: `troth controller` as it stands, `troth node` as root with four capabilities
# (see deploy/). Nothing in it depends on the architecture: amd64 and arm64 are built alike.
ARG PYTHON=python:3.13-slim-bookworm
ARG GO=golang:1.24-bookworm

# The CNI plugin, which runs on the node itself: one program that needs nothing of it.
FROM ${GO} AS cni
WORKDIR /build
COPY cni ./
RUN CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags="-s -w" -o /troth-cni .

FROM ${PYTHON} AS build
WORKDIR /build
COPY requirements.txt requirements-build.txt ./
# Every package is checked against its hash; those that only build the wheel aren't installed.
RUN pip download --no-cache-dir --require-hashes --only-binary=:all: --dest=/wheels \
    -r requirements.txt -r requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY examples ./examples
RUN python -m venv --without-pip /opt/troth \
    && pip --python=/opt/troth install --no-cache-dir --no-index --find-links=/wheels . \
    && /opt/troth/bin/troth --version

FROM ${PYTHON}
# nft captures pods; nsenter and setpriv are util-linux's.
RUN apt-get update \
    && apt-get install -y --no-install-recommends nftables util-linux \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/troth /opt/troth
COPY --from=cni /troth-cni /opt/troth/bin/troth-cni
ENV PATH=/opt/troth/bin:$PATH PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["troth"]
