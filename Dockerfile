# LoFiT Bench with its pinned environment; docs/cluster.md says how to run it.
#   docker build --tag lofit .
# For GPUs: --build-arg TORCH_INDEX=<an index of PyTorch with CUDA builds>
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /lofit

COPY requirements/cpu-linux.lock requirements/
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "$(grep -o '^torch==[^ ]*' requirements/cpu-linux.lock)" \
    && pip install --no-cache-dir --no-deps --requirement requirements/cpu-linux.lock

COPY . .
RUN pip install --no-cache-dir --no-deps . \
    && useradd --create-home --uid 1000 lofit \
    && install --directory --owner lofit --group lofit /data

USER 1000
WORKDIR /data
# The workflow is in the image; configuration, results and downloads are in /data.
ENTRYPOINT ["snakemake", "--snakefile", "/lofit/Snakefile"]
CMD ["--help"]
