# One image for every role:
#   docker run IMAGE master --config /etc/catena/master.yaml
#   docker run IMAGE worker --config /etc/catena/worker.yaml
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/catena ./cmd/catena

# Nothing but the static binary, the certificates of the authorities and the time zones.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/go/lib/time/zoneinfo.zip /zoneinfo.zip
COPY --from=build /out/catena /catena
COPY LICENSE /LICENSE
ENV ZONEINFO=/zoneinfo.zip
USER 65532:65532
EXPOSE 20080 20081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["/catena", "doctor", "--live"]
ENTRYPOINT ["/catena"]
CMD ["master"]
