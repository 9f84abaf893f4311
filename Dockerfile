# Pathloom's images: the binary and ONNX Runtime's library, as a user without rights.
# Build: docker build --tag pathloom:0.1.0 .
#        docker build --tag pathloom:0.1.0-cuda --target cuda .      (the model on a GPU)

FROM rust:1.95-bookworm AS build
# `make dist` has a first build run to see what requests are like: on two cores, and counted by LLVM's tools.
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip cmake llvm-22 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make dist && strip target/dist/pathloom

FROM build AS gpu-library
RUN make gpu-library

# CUDA and cuDNN as their maker ships them.
FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS cuda
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates nftables iproute2 && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --no-create-home pathloom
COPY --from=build /src/target/dist/pathloom /usr/local/bin/
COPY --from=gpu-library /src/target/onnxruntime-gpu/*.so /usr/local/bin/
COPY --from=gpu-library /src/target/onnxruntime-gpu/LICENSE /src/target/onnxruntime-gpu/ThirdPartyNotices.txt /usr/share/doc/onnxruntime/
COPY proxy-config/quickstart.yaml /etc/pathloom/pathloom.yaml
USER 10001
EXPOSE 15001
ENTRYPOINT ["/usr/local/bin/pathloom"]
CMD ["run", "--config", "/etc/pathloom/pathloom.yaml"]

FROM debian:bookworm-slim
# The authorities for names outside the mesh (`tls: { name: … }`), and what `pathloom capture` calls.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates nftables iproute2 && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --no-create-home pathloom
COPY --from=build /src/target/dist/pathloom /src/target/dist/libonnxruntime.so /usr/local/bin/
COPY --from=build /src/target/onnxruntime/LICENSE /src/target/onnxruntime/ThirdPartyNotices.txt /usr/share/doc/onnxruntime/
COPY proxy-config/quickstart.yaml /etc/pathloom/pathloom.yaml
USER 10001
EXPOSE 15001
# The admin port listens on loopback; `pathloom probe` asks it from inside.
ENTRYPOINT ["/usr/local/bin/pathloom"]
CMD ["run", "--config", "/etc/pathloom/pathloom.yaml"]
