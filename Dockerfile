# The gateway as a container. The engine's socket is mounted; servers are its siblings on the same engine.
ARG NODE_IMAGE=node:26-bookworm-slim

FROM ${NODE_IMAGE} AS packages
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM ${NODE_IMAGE} AS program
WORKDIR /app
COPY scripts/strip-types.mjs ./scripts/
COPY src ./src
RUN node --disable-warning=ExperimentalWarning scripts/strip-types.mjs

FROM ${NODE_IMAGE}
ENV NODE_ENV=production
WORKDIR /app
COPY --from=packages /app/node_modules ./node_modules
COPY package.json servers.schema.json ./
COPY bin ./bin
COPY scripts/container-entrypoint.mjs ./scripts/
COPY --from=program /app/dist ./dist
RUN mkdir /state
ENV GATEWAY_STATE_DIR=/state
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + (process.env.GATEWAY_PORT || 8000) + '/health/ready').then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
# It starts as root to read the socket's group, then becomes an unprivileged user with that group.
ENTRYPOINT ["node", "/app/scripts/container-entrypoint.mjs"]
CMD ["start", "--config", "/config/servers.yaml", "--host", "0.0.0.0", "--allow-unauthenticated"]
