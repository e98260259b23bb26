// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVClient
import KVCore
import LinuxIO

extension MemoryMapper {
    /// The system's mapper.
    static let system = MemoryMapper(
        map: { descriptor, byteCount, access throws(IOFault) in
            let mapping = try SharedMapping(
                descriptor: descriptor, byteCount: ByteCount(byteCount),
                access: access == .readOnly ? .readOnly : .readWrite)
            return MappedMemory(bytes: mapping.bytes, owner: mapping)
        },
        discard: { descriptor in Glibc.close(descriptor) })
}
