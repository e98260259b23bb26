// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import LinuxIO
import Logging
import Node
import Settings
import Telemetry

/// Connections of clients that never connect again, over a restart: systemd keeps their sockets in
/// between (file descriptor store, sd_pid_notify_with_fds(3)).
///
/// Descriptors come from whoever starts the daemon, who may do anything to it anyway. What is
/// checked guards against mistakes: only what the daemon before named, on listeners that are still
/// there, opened by a password that is still right, is gone on with.
struct DescriptorStore {
    /// Far longer than systemd takes; nothing is lost but connections when it is over.
    private static let heardMilliseconds: Int32 = 5_000

    let notifier: SystemdNotifier
    let logger: Logger

    /// Nil where nobody keeps descriptors.
    init?(_ notifier: SystemdNotifier?, _ logger: Logger) {
        guard let notifier, notifier.keepsDescriptors else { return nil }
        self.notifier = notifier
        self.logger = logger
    }

    // MARK: The end of a daemon

    /// Gives systemd `connections`, and what the next daemon must know of them. Those that it does
    /// not keep end.
    func keep(_ connections: [KeptConnection<RingReactor>], _ handOver: HandOver) {
        guard !connections.isEmpty else { return }
        do {
            let memory = try StagingRegion(byteCount: ByteCount(HandOver.byteCount))
            handOver.encode(into: memory.bytes)
            try notifier.notify(.keep(name: HandOver.name), descriptor: memory.descriptor)
            for one in connections {
                try one.connection.withDescriptor { descriptor throws(SystemdNotifier.Fault) in
                    try notifier.notify(.keep(name: one.name), descriptor: descriptor)
                }
            }
            guard try notifier.isHeard(withinMilliseconds: Self.heardMilliseconds) else {
                return abandon(connections, "systemd does not answer")
            }
            logger.event(
                .notice, .connectionsKept, "connections are kept for the next start",
                ["connections": connections.count])
        } catch {
            abandon(connections, "\(error)")
        }
    }

    /// Ends connections that may be kept or not: their clients shall not wait for an answer.
    private func abandon(_ connections: [KeptConnection<RingReactor>], _ reason: String) {
        for one in connections { one.connection.shutDown() }
        logger.event(
            .warning, .connectionsKept, "connections cannot be kept for the next start",
            ["connections": connections.count, "fault": reason])
    }

    // MARK: The start of the next one

    /// What was passed to this process, taken once.
    static func passed() -> [PassedDescriptor] {
        let passed = PassedDescriptor.all(
            environment: Surroundings.current().environment, processID: getpid())
        for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            // SAFETY: a constant name; no other thread reads the environment yet.
            unsafe unsetenv(variable)
        }
        return passed
    }

    /// Goes on with the connections among `passed`, and closes the rest.
    static func resume(
        _ passed: [PassedDescriptor], _ node: Node, _ acceptor: Acceptor<RingReactor>,
        _ notifier: SystemdNotifier?, _ logger: Logger
    ) {
        guard !passed.isEmpty else { return }
        // What is kept is passed at every start: nobody may get a connection again that this
        // daemon has said something on.
        guard notifier.map({ forget(passed, $0, logger) }) ?? true else { return }
        let handOver = passed.first { $0.name == HandOver.name }.flatMap { memory($0) }
        if let handOver { node.learn(handOver) }
        var count = 0
        for one in passed where one.name != HandOver.name {
            let reason: String
            do throws(NotResumed) {
                guard let handOver else { throw .unknown }
                let session = try node.resume(one.name, handOver)
                guard let (connection, own) = one.takeConnection() else { throw .notConnected }
                let isServed = blocking {
                    await acceptor.resume(connection, session, ownAddress: own)
                }
                guard isServed else { throw .noListener }
                count += 1
                continue
            } catch {
                reason = error.rawValue
            }
            logger.event(
                .warning, .descriptorRefused, "a descriptor that was passed is closed: \(reason)",
                ["name": one.name])
        }
        logger.event(
            .notice, .connectionsResumed, "connections of the daemon before go on",
            ["connections": count])
    }

    /// Whether systemd has let go of all that it passed.
    private static func forget(
        _ passed: [PassedDescriptor], _ notifier: SystemdNotifier, _ logger: Logger
    ) -> Bool {
        var reason = "systemd does not answer"
        do throws(SystemdNotifier.Fault) {
            for name in Set(passed.map(\.name)) { try notifier.notify(.forget(name: name)) }
            if try notifier.isHeard(withinMilliseconds: heardMilliseconds) { return true }
        } catch {
            reason = "\(error)"
        }
        logger.event(
            .warning, .descriptorRefused, "all descriptors that were passed are closed: \(reason)",
            ["descriptors": passed.count])
        return false
    }

    private static func memory(_ passed: PassedDescriptor) -> HandOver? {
        do throws(IOFault) {
            let mapping = try passed.takeMemory(byteCount: ByteCount(HandOver.byteCount))
            return withExtendedLifetime(mapping) { HandOver(mapping.bytes) }
        } catch {
            return nil
        }
    }
}
