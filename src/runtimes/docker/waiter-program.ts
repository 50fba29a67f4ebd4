/*
 * A program that reads its stdin until that ends, and does nothing else: what keeps a network open. No image that has one is sure to
 * be on an engine or within its reach, so the program is made here, of a file header (ELF, System V ABI) and ten instructions.
 */

interface Machine {
  /** `e_machine` of the ELF header. */
  elf: number;
  code: string;
}

/** By Go's names of architectures. */
const machines: Record<string, Machine> = {
  amd64: {
    elf: 62,
    code: `
      31ff          xor  edi, edi      ; again: stdin
      4889e6        mov  rsi, rsp      ; into the stack
      ba01000000    mov  edx, 1        ; one byte
      31c0          xor  eax, eax      ; read
      0f05          syscall
      4885c0        test rax, rax
      7fed          jg   again
      b8e7000000    mov  eax, 231      ; exit_group
      31ff          xor  edi, edi      ; 0
      0f05          syscall`,
  },
  arm64: {
    elf: 183,
    code: `
      000080d2      mov  x0, #0        ; again: stdin
      e1030091      mov  x1, sp        ; into the stack
      220080d2      mov  x2, #1        ; one byte
      e80780d2      mov  x8, #63       ; read
      010000d4      svc  #0
      1f0000f1      cmp  x0, #0
      4cffff54      b.gt again
      000080d2      mov  x0, #0
      c80b80d2      mov  x8, #94       ; exit_group
      010000d4      svc  #0`,
  },
};

const headerBytes = 64;
const segmentBytes = 56;
const baseAddress = 0x400000n;

/** The program for an architecture as the engine names it; undefined where there is none. */
export function waiterProgram(architecture: string): Buffer | undefined {
  const machine = machines[architecture];
  if (!machine) return undefined;
  const code = Buffer.from(
    machine.code
      .trim()
      .split('\n')
      .map((line) => line.trim().split(/\s/, 1)[0])
      .join(''),
    'hex',
  );
  const head = Buffer.alloc(headerBytes + segmentBytes);
  const size = BigInt(head.length + code.length);
  // 64-bit, little-endian, version 1.
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]).copy(head);
  head.writeUInt16LE(2, 16); // an executable
  head.writeUInt16LE(machine.elf, 18);
  head.writeUInt32LE(1, 20);
  head.writeBigUInt64LE(baseAddress + BigInt(head.length), 24); // where it begins
  head.writeBigUInt64LE(BigInt(headerBytes), 32); // where the segments are listed
  head.writeUInt16LE(headerBytes, 52);
  head.writeUInt16LE(segmentBytes, 54);
  head.writeUInt16LE(1, 56); // one segment: the whole file
  head.writeUInt32LE(1, headerBytes);
  head.writeUInt32LE(0b101, headerBytes + 4); // read and execute
  head.writeBigUInt64LE(baseAddress, headerBytes + 16);
  head.writeBigUInt64LE(baseAddress, headerBytes + 24);
  head.writeBigUInt64LE(size, headerBytes + 32);
  head.writeBigUInt64LE(size, headerBytes + 40);
  head.writeBigUInt64LE(0x10000n, headerBytes + 48);
  return Buffer.concat([head, code]);
}
