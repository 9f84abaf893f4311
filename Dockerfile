# Pathloom's image: the binary and ONNX Runtime's CPU library, as a user without rights.
# Build: docker build --tag pathloom .

FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make dist && strip target/dist/pathloom

FROM debian:bookworm-slim
# The authorities for names outside the mesh (`tls: { name: … }`).
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --no-create-home pathloom
COPY --from=build /src/target/dist/pathloom /src/target/dist/libonnxruntime.so /usr/local/bin/
COPY --from=build /src/target/onnxruntime/LICENSE /src/target/onnxruntime/ThirdPartyNotices.txt /usr/share/doc/onnxruntime/
COPY proxy-config/quickstart.yaml /etc/pathloom/pathloom.yaml
USER 10001
EXPOSE 15001
# The admin port listens on loopback: an operator's configuration opens it where probes need it.
ENTRYPOINT ["/usr/local/bin/pathloom"]
CMD ["run", "--config", "/etc/pathloom/pathloom.yaml"]
