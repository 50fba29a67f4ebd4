/** A servers.yaml to begin with: valid as it stands, and started as it stands it needs no more than an engine. */
export function exampleConfig(): string {
  return example;
}

const example = `# The servers behind the gateway. Check this file with: mcp-gateway validate
# Durations are 300, 300s, 5m or 1h (plain numbers are seconds), sizes 512m or 1g, relative paths start here.
# \${NAME}, \${NAME:-default} and \${file:path} put in what is secret; .env beside this file is read too.

gateway:
  host: 127.0.0.1
  port: 8000
  default_idle_timeout: 300s # a server that nobody calls is stopped, and started again by the next call

# Merged into each server below.
defaults:
  env: { TZ: "\${TZ:-UTC}" }
  limits: { memory: 512m, cpus: 1, pids: 128 }

servers:
  # A package from npm, in a locked container of its own: this one line is all it needs.
  everything: { type: template, template: npm, config: { package: "@modelcontextprotocol/server-everything" } }

  # The same with something to keep: a named volume outlives the container.
  memory:
    description: A knowledge graph that is remembered
    type: template
    template: npm
    config: { package: "@modelcontextprotocol/server-memory" }
    volumes: ["memory:/data"]
    env: { MEMORY_FILE_PATH: /data/memory.json }
    network: none

  # An image, or a folder with a Dockerfile. type: docker is implied.
  notes:
    enabled: false # remove this line when the image is yours
    image: mcp-notes
    # build: ./servers/notes          # built when the image is missing or its sources changed
    # command: [node, server.js]      # arguments after the image's ENTRYPOINT
    env: { NOTES_TOKEN: "\${NOTES_TOKEN}" }
    volumes: ["./notes:/notes:ro"] # a folder of this machine, read-only
    tools: [search_notes, read_note] # only these are shown
    idle_timeout: 15m
    limits: { memory: 1g }

  # A program of this machine, without a sandbox.
  files:
    enabled: false
    type: process
    command: [npx, -y, "@modelcontextprotocol/server-filesystem", "."]
    working_dir: .
`;
