# docker build --build-arg HOLDFAST_REVISION="$(git describe --always --dirty --abbrev=12)" -t holdfast:0.1.0 .

# Debian of the same release as below, for the same C library.
FROM rust:1.95-trixie AS build
WORKDIR /src

# Dependencies first, in a layer that changes with the lock file only, under stubs in the places where cargo expects the
# package's own sources. A layer, and not a cache mount: it is kept by every builder, and can be pushed for CI's next run.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
COPY bench/Cargo.toml bench/
COPY demo/Cargo.toml demo/
RUN mkdir -p src bench/src demo/src benches \
 && touch src/lib.rs benches/lookup.rs \
 && echo 'fn main() {}' | tee src/main.rs bench/src/main.rs > demo/src/main.rs \
 && cargo build --release --locked --bin holdfast

# `touch`: cargo compares times, and the stubs are newer than a checkout. `strip`: line tables are four fifths of the file;
# function names stay, for backtraces.
COPY src src
ARG HOLDFAST_REVISION
RUN touch src/lib.rs src/main.rs \
 && cargo build --release --locked --bin holdfast \
 && strip --strip-debug -o holdfast target/release/holdfast

# The C library and no shell. It has CA certificates too, but the API server's comes with the pod's ServiceAccount.
FROM gcr.io/distroless/cc-debian13:nonroot
COPY --from=build /src/holdfast /usr/local/bin/holdfast
COPY LICENSE /
# A number, so that a kubelet can see that it is not root. The tag's own user, nonroot, is the same.
USER 65532:65532
EXPOSE 8080 9477
ENTRYPOINT ["/usr/local/bin/holdfast"]
