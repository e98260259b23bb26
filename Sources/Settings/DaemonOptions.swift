// SPDX-License-Identifier: Apache-2.0

import KVCore

/// All options of `kvstored`, in the order of the reference.
enum DaemonOptions {
    static let unixSocket = Setting<String?>(
        key: "listen.unix_socket", kind: .socketPathOrOff,
        fallback: .computed(
            text: "kvstored.sock in $RUNTIME_DIRECTORY (systemd), else in /run/kvstored for root, "
                + "else in $XDG_RUNTIME_DIR, else off",
            defaultUnixSocket),
        summary: "Unix socket for engines on this host.",
        detail: "Local engines read chunks in place through shared memory here, so it is the "
            + "fastest way in. The directory is created when the path is the default one.")

    static let unixSocketMode = Setting<FilePermissions>(
        key: "listen.unix_socket_mode", kind: .permissions,
        fallback: .value(FilePermissions(bits: 0o660)),
        summary: "Permissions of the Unix socket.",
        detail: "Whoever may write to the socket may use the default namespace, unless that has "
            + "a token.")

    static let tcp = Setting<StreamAddress?>(
        key: "listen.tcp", kind: .endpointOrOff,
        fallback: .value(.tcp(host: "127.0.0.1", port: 7411)),
        summary: "TCP address and port.",
        detail: "An address that other hosts can reach needs `namespaces` with tokens. Port 0 "
            + "takes any free port; `ready.file` tells which.")

    static let memoryBudget = Setting<ByteCount>(
        key: "memory.budget", kind: .size(.mebibytes(1)...ByteCount(1 << 46)),
        fallback: .value(.gibibytes(1)),
        summary: "Memory for chunks and their tables.",
        detail: "The process stays within this and 64 MiB. An eighth, at most 256MiB, is for local "
            + "writers; what `limits.connections` (6 KiB each), `codec.workers` (up to 66 MiB "
            + "each) and `codec.profile_memory` need beyond 32 MiB is taken out too. The rest is "
            + "one region, mapped at start.")

    static let memoryPrefault = Setting<Bool>(
        key: "memory.prefault", kind: .boolean, fallback: .value(false),
        summary: "Touch all chunk memory at start.",
        detail: "Start takes longer with the size; afterwards no request "
            + "waits for the kernel to find a page, and a host that lacks the memory shows it now.")

    static let memoryHugePages = Setting<HugePages>(
        key: "memory.huge_pages", kind: .choice, fallback: .value(.auto),
        summary: "Huge pages for chunk memory.",
        detail: "`auto` uses them where the host offers them and logs a warning where it does "
            + "not; `require` refuses to start without. See docs/operations/install.md.")

    static let memoryRegistration = Setting<Registration>(
        key: "memory.registration", kind: .choice, fallback: .value(.auto),
        summary: "Register chunk memory with the I/O ring.",
        detail: "Registered memory is locked, so it needs RLIMIT_MEMLOCK (LimitMEMLOCK= in the "
            + "systemd unit). `auto` registers huge pages and prefaulted memory, since "
            + "registering touches every page; where the limit forbids it, it goes on and says so.")

    static let ssdDirectories = Setting<[String]>(
        key: "ssd.directories", kind: .pathsOrOff, fallback: .value([]),
        summary: "Directories of the SSD tier, such as [/var/lib/kvstored/ssd]; off: no such tier.",
        detail: "One for each device; chunks are spread over them. See docs/operations/ssd.md.")

    static let ssdCapacity = Setting<ByteCount?>(
        key: "ssd.capacity", kind: .optionalSize(.mebibytes(64)...ByteCount(1 << 44)),
        fallback: .value(nil),
        summary: "What kvstored may use of each directory; required with directories.",
        detail: "Everything is included: chunks, checkpoint and metadata.")

    static let ssdSegmentBytes = Setting<ByteCount?>(
        key: "ssd.segment_bytes", kind: .optionalMebibytes(1...256),
        fallback: .computed(
            text: "256MiB, or a sixteenth of ssd.capacity when that is less"
        ) { _ in nil },
        summary: "Size of a segment, the unit in which space is written and taken back.",
        detail: "At most a quarter of `ssd.capacity`. A chunk that does not fit in a segment stays "
            + "in memory alone. A store keeps the size that it was made with.")

    static let ssdReserve = Setting<ByteCount>(
        key: "ssd.reserve", kind: .size(ByteCount(0)...ByteCount(1 << 44)),
        fallback: .value(.gibibytes(1)),
        summary: "Free space that each directory's file system keeps.",
        detail: "`kvstored` takes no more space where less than this would be left, even "
            + "below `ssd.capacity`: others may use the file system too.")

    static let ssdAdmission = Setting<DaemonSettings.SSD.Admission>(
        key: "ssd.admission", kind: .choice, fallback: .value(.all),
        summary: "What is written to SSD.",
        detail: "`all`: every chunk. `second_use`: those used again after they were stored. "
            + "`prefix`: as `second_use`, and with a chunk the ones before it in the same request "
            + "(its ancestors), never a chunk without them. The first is warmest after a restart, "
            + "the others save writes.")

    static let ssdPromotion = Setting<DaemonSettings.SSD.Promotion>(
        key: "ssd.promotion", kind: .choice, fallback: .value(.secondUse),
        summary: "When a chunk read from SSD takes a warm place in memory.",
        detail: "`always`: at its first read. `second_use`: at its second, so that chunks read "
            + "once do not displace those that are read often.")

    static let ssdScrubRate = Setting<ByteCount>(
        key: "ssd.scrub_rate", kind: .size(ByteCount(0)...ByteCount(1 << 34)),
        fallback: .value(.mebibytes(16)),
        summary: "Bytes a second for the background check of stored chunks; 0: no check.",
        detail: "It finds bytes that have decayed before a request does. A read for a request is "
            + "always checked.")

    static let ssdDirectIO = Setting<DaemonSettings.SSD.DirectIO>(
        key: "ssd.direct_io", kind: .choice, fallback: .value(.auto),
        summary: "Reads and writes past the page cache (O_DIRECT).",
        detail: "Where the file system has none, `auto` falls back to buffered I/O with a "
            + "warning, and `require` leaves the directory out. `off` never uses it.")

    static let backend = Setting<Backend>(
        key: "io.backend", kind: .choice, fallback: .value(.auto),
        summary: "How the data threads do I/O.",
        detail: "`auto` takes io_uring where the kernel permits it and poll elsewhere, for "
            + "example in a container whose seccomp profile forbids io_uring.")

    static let shards = Setting<Int>(
        key: "io.shards", kind: .count(0...64), fallback: .value(0),
        summary: "Data threads; 0 takes one a core, at most 8.",
        detail: "Chunks are megabytes, so a few threads fill a network card; more threads than "
            + "cores only cost switches.")

    static let connections = Setting<Int>(
        key: "limits.connections", kind: .count(1...100_000), fallback: .value(12_000),
        summary: "Open connections; one more is refused at once.",
        detail: "Each takes a descriptor (LimitNOFILE= in the systemd unit) and a few KiB.")

    static let chunkBytes = Setting<ByteCount>(
        key: "limits.chunk_bytes",
        kind: .size(.kibibytes(4)...ByteCount(Limits.chunkByteCountMax)),
        fallback: .value(ByteCount(Limits.chunkByteCountMax)),
        summary: "Largest chunk that is taken.",
        detail: "When not set, it is no larger than `memory.budget`.")

    static let requestDeadline = Setting<Milliseconds>(
        key: "limits.request_deadline",
        kind: .duration(Milliseconds(10)...Milliseconds(Limits.requestMillisecondsMax)),
        fallback: .value(Milliseconds(Limits.requestMillisecondsDefault)),
        summary: "Deadline of a request that names none.",
        detail: "A request that cannot be answered in time is refused, so that the engine can "
            + "compute instead of waiting.")

    static let lease = Setting<Milliseconds>(
        key: "limits.lease",
        kind: .duration(Milliseconds(100)...Milliseconds(Limits.leaseMillisecondsMax)),
        fallback: .value(Milliseconds(Limits.leaseMillisecondsMax)),
        summary: "Longest lease on a chunk.",
        detail: "A reader that dies blocks the eviction of its chunks no longer than this.")

    static let shutdownGrace = Setting<Milliseconds>(
        key: "shutdown.grace", kind: .duration(Milliseconds(0)...Milliseconds(600_000)),
        fallback: .value(.seconds(10)),
        summary: "Time for requests under way after SIGTERM.",
        detail: "New requests are refused at once; those under way are cut off after this. Keep "
            + "it below TimeoutStopSec= of the systemd unit.")

    static let logLevel = Setting<LogLevel>(
        key: "log.level", kind: .choice, fallback: .value(.info),
        summary: "Least severe event that is logged.")

    static let logFormat = Setting<LogFormat>(
        key: "log.format", kind: .choice, fallback: .value(.auto),
        summary: "Form of a log line; auto is text on a terminal, else JSON.",
        detail: "One line an event, on standard error.")

    static let nodeName = Setting<String>(
        key: "node.name", kind: .name(byteCountMax: 64),
        fallback: .computed(text: "the host's name") { defaultNodeName($0) },
        summary: "Name of this node in logs and answers.")

    static let readyFile = Setting<String?>(
        key: "ready.file", kind: .optionalPath, fallback: .value(nil),
        summary: "File to write once the daemon serves.",
        detail: "JSON with the addresses, for scripts that let the system choose a port: "
            + "`{\"pid\": 4711, \"node\": \"host-1\", \"addresses\": [\"tcp:127.0.0.1:40123\"]}`. "
            + "Written under another name first, so a script never sees half of it. The other "
            + "listeners stand there as `resp` and `lm`.")

    /// The options that a file, a variable or a flag can set.
    static let all: [any DeclaredSetting] =
        main + CodecOptions.all + service + FrontDoorOptions.all + last

    private static let main: [any DeclaredSetting] = [
        unixSocket, unixSocketMode, tcp, memoryBudget, memoryPrefault, memoryHugePages,
        memoryRegistration, ssdDirectories, ssdCapacity, ssdSegmentBytes, ssdReserve, ssdAdmission,
        ssdPromotion, ssdScrubRate, ssdDirectIO,
    ]

    private static let service: [any DeclaredSetting] = [
        backend, shards, connections, chunkBytes, requestDeadline, lease,
    ]

    private static let last: [any DeclaredSetting] = [
        shutdownGrace, logLevel, logFormat, nodeName, readyFile,
    ]

    private static func defaultUnixSocket(_ surroundings: Surroundings) -> String? {
        // systemd.exec(5): several runtime directories are separated by colons.
        let runtime = surroundings.environment["RUNTIME_DIRECTORY"]?.prefix { $0 != ":" } ?? ""
        if !runtime.isEmpty { return runtime + "/kvstored.sock" }
        if surroundings.userID == 0 { return "/run/kvstored/kvstored.sock" }
        let user = surroundings.environment["XDG_RUNTIME_DIR"] ?? ""
        return user.isEmpty ? nil : user + "/kvstored.sock"
    }

    private static func defaultNodeName(_ surroundings: Surroundings) -> String {
        let kind = ValueKind<String>.name(byteCountMax: 64)
        return kind.parse(surroundings.hostName) ?? "localhost"
    }
}

/// The fields of an entry of `namespaces`, which only the file can set.
enum NamespaceOptions {
    static let listKey = "namespaces"

    static let name = Setting<String>(
        key: "namespaces.name", kind: .name(byteCountMax: Limits.namespaceByteCountMax),
        fallback: .required,
        summary: "The tenant's name, as clients give it.",
        detail: "`default` sets the namespace of clients that name none.")

    static let token = Setting<String?>(
        key: "namespaces.token", kind: .optionalText(byteCountMax: Limits.tokenByteCountMax),
        fallback: .value(nil), isSecret: true,
        summary: "The token that opens the namespace.",
        detail: "Prefer `token_file`, which keeps it out of this file.")

    static let tokenFile = Setting<String?>(
        key: "namespaces.token_file", kind: .optionalPath, fallback: .value(nil),
        summary: "A file with tokens, one a line.",
        detail: "Any of them opens the namespace, so a token is replaced without a gap: add the "
            + "new one, restart, move the clients, remove the old one. Lines that begin with # "
            + "are comments. A relative path starts at the configuration file's directory.")

    static let secret = Setting<String?>(
        key: "namespaces.secret",
        kind: ValueKind(
            name: "hexadecimal", expectation: "64 hexadecimal digits (32 bytes)",
            parse: { secretBytes($0) == nil ? nil : .some($0) }, render: { $0 ?? "" }),
        fallback: .value(nil), isSecret: true,
        summary: "The secret from which clients derive chunk keys, in hexadecimal.",
        detail: "Tenants with different secrets have unrelated keys for the same text, so none "
            + "can learn by a hit what another asked. Prefer `secret_file`.")

    static let secretFile = Setting<String?>(
        key: "namespaces.secret_file", kind: .optionalPath, fallback: .value(nil),
        summary: "A file with that secret, in hexadecimal.",
        detail: "For example made with `openssl rand -hex 32`.")

    static let sharedMemory = Setting<Bool>(
        key: "namespaces.shared_memory", kind: .boolean,
        fallback: .computed(text: "true when it is the only namespace, else false") { _ in false },
        summary: "Whether local clients may read chunks in place.",
        detail: "The memory they map holds the chunks of all namespaces that may share it: with "
            + "`true`, a client of this namespace can see those of every other.")

    static let all: [any DeclaredSetting] = [
        name, token, tokenFile, secret, secretFile, sharedMemory,
    ]

    /// The bytes of a secret in hexadecimal (docs/key-derivation.md); nil when it is none.
    static func secretBytes(_ text: String) -> [UInt8]? {
        guard let bytes = bytesFromHexadecimal(text), bytes.count == secretByteCount else {
            return nil
        }
        return bytes
    }

    private static let secretByteCount = 32
}
