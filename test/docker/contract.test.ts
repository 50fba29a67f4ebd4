import { runtimeContract } from '../runtime-contract.ts';
import { subject } from './subject.ts';

runtimeContract(subject, import.meta.resolve('./subject.ts'));
