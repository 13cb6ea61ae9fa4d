# ld4lg-fast on a GPU. Build: docker build -t ld4lg-fast .   Run: docker run --gpus all ld4lg-fast doctor
# Serve: docker run --gpus all -p 8000:8000 -e API_KEY ld4lg-fast serve --host 0.0.0.0 --api-key-env API_KEY
FROM python:3.12-slim

# Triton and the native library are compiled with it; torch's own wheels bring the CUDA libraries.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/ld4lg-fast
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY ld4lg_fast ld4lg_fast
COPY kernels kernels
COPY export export
RUN pip install --no-cache-dir ".[gpu,onnx,eval,serve]"

WORKDIR /workspace
EXPOSE 8000
ENTRYPOINT ["ld4lg"]
CMD ["--help"]
