// SPDX-License-Identifier: Apache-2.0

package import Logging

/// The events that the daemon logs, declared once: the `event` of a log line.
///
/// A line's text may change between releases; its event name does not.
package enum EventName: String, CaseIterable, Sendable {
    case starting, ready, stopping, stopped
    case configurationWarning = "configuration_warning"
    case listening
    case listenFailed = "listen_failed"
    case memoryReserved = "memory_reserved"
    case memoryDegraded = "memory_degraded"
    case ioBackendChosen = "io_backend_chosen"
    case ioDegraded = "io_degraded"
    case connectionRefused = "connection_refused"
    case connectionDropped = "connection_dropped"
    case acceptFailed = "accept_failed"
    case connectionsKept = "connections_kept"
    case connectionsResumed = "connections_resumed"
    case descriptorRefused = "descriptor_refused"
    case helloRefused = "hello_refused"
    case checksumMismatch = "checksum_mismatch"
    case shardStalled = "shard_stalled"
    case ssdOpened = "ssd_opened"
    case ssdUnavailable = "ssd_unavailable"
    case ssdForeignFile = "ssd_foreign_file"
    case ssdBufferedIO = "ssd_buffered_io"
    case ssdFault = "ssd_fault"
    case ssdChecksumMismatch = "ssd_checksum_mismatch"
    case ssdRecovered = "ssd_recovered"
    case ssdDiskFull = "ssd_disk_full"
    case ssdFinished = "ssd_finished"
    case internalFault = "internal_fault"
    case logLinesDropped = "log_lines_dropped"
}

extension Logger {
    /// Logs `event` at `level`; `text` is one sentence for people, `fields` what it is about.
    ///
    /// No field may hold a key, a prompt, a token or other text that a peer chose freely.
    package func event(
        _ level: Level, _ event: EventName, _ text: @autoclosure () -> Message,
        _ fields: @autoclosure () -> [String: any CustomStringConvertible & Sendable] = [:]
    ) {
        guard level >= logLevel else { return }
        var metadata: Metadata = ["event": "\(event.rawValue)"]
        for (name, value) in fields() { metadata[name] = "\(value)" }
        log(level: level, text(), metadata: metadata)
    }
}
