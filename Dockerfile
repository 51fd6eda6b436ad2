# The image of the controller. `make build` first, then for instance:
#
#   docker build -t registry.example.com/sealock:v0.1.0 .
#
# The binary is static. Of the base it needs certificate authorities, for Git over HTTPS, and a user other than root.
FROM gcr.io/distroless/static-debian12:nonroot
COPY bin/sealock /sealock
ENTRYPOINT ["/sealock"]
