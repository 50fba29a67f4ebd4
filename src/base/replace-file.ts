import { rename, rm, writeFile } from 'node:fs/promises';

/**
 * Puts a file in place of another at once, for the owner alone: a crash in between leaves the old one, and a reader never sees
 * half. Writers of one file must not overlap.
 */
export async function replaceFile(file: string, content: string | Buffer): Promise<void> {
  const temporary = `${file}.new`;
  try {
    await writeFile(temporary, content, { mode: 0o600 });
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
