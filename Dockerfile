# Two images. The last stage is Patchbay; `--target trial` is the sample bot and the demo with its phones, from source.
# Redis, drachtio-server and rtpengine are containers of their own: see docker-compose.yml.

FROM node:24-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci

FROM packages AS build
COPY tsconfig.json tsconfig.build.json ./
COPY src ./src
RUN npm run build && npm prune --omit=dev

FROM packages AS trial
COPY tsconfig.json ./
COPY src ./src
COPY test/support ./test/support
COPY demo ./demo
COPY examples ./examples
USER node
STOPSIGNAL SIGTERM
ENTRYPOINT ["node", "--import", "tsx"]

FROM node:24-bookworm-slim
# espeak-ng is the text-to-speech of docker/patchbay.yaml; leave it out where another one is configured. ffmpeg, which
# `recording.format` opus and mp3 need, would make the image larger by 600 MB: --build-arg MORE_PACKAGES=ffmpeg.
ARG MORE_PACKAGES=
RUN apt-get update \
  && apt-get install --yes --no-install-recommends espeak-ng $MORE_PACKAGES \
  && rm -rf /var/lib/apt/lists/*
ENV NODE_ENV=production
WORKDIR /app
COPY package.json ./
COPY bin ./bin
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
# The folders exist here with their owner, so that new volumes mounted on them are writable without root. Nothing else is
# written but temporary files, so the root file system may be read-only with a tmpfs on /tmp.
RUN mkdir -p /etc/patchbay /var/lib/patchbay/prompts /var/lib/patchbay/recordings /var/lib/patchbay/state \
    /var/cache/patchbay /var/spool/patchbay \
  && chown -R node:node /var/lib/patchbay /var/cache/patchbay /var/spool/patchbay
USER node
# SIGTERM lets calls end by themselves; a second one ends them.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:9080/livez').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# The young generation is larger than Node's own: finished transactions stay for 32 s (docs/performance.md).
ENTRYPOINT ["node", "--max-semi-space-size=32", "--enable-source-maps", "dist/main.js", "--config"]
CMD ["/etc/patchbay/patchbay.yaml"]
