// SPDX-License-Identifier: Apache-2.0
import Glibc
import Logging
import Settings
import Telemetry

/// `kvstored`: settings, then the daemon, until a signal ends it.
@main
enum Main {
    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        do throws(SettingsFault) {
            switch try DaemonSettings.load(arguments: arguments) {
            case .print(let text):
                print(text)
            case .run(let settings, let warnings):
                exit(serve(settings, warnings))
            }
        } catch {
            write(error.description, to: STDERR_FILENO)
            exit(SettingsFault.exitStatus)
        }
    }

    /// - Returns: the exit status.
    private static func serve(_ settings: DaemonSettings, _ warnings: [String]) -> Int32 {
        // Blocked before any thread starts, so all inherit it and only `SignalQueue` sees them.
        let signals = SignalQueue()
        let log = DaemonLog(settings)
        for warning in warnings { log.logger.event(.warning, .configurationWarning, "\(warning)") }
        do throws(StartFault) {
            let daemon = try Daemon(settings, log)
            try daemon.announce()
            daemon.run(until: signals)
            log.close()
            return EXIT_SUCCESS
        } catch {
            log.logger.event(.critical, .listenFailed, "\(error.message)")
            log.close()
            return EXIT_FAILURE
        }
    }

    private static func write(_ text: String, to descriptor: Int32) {
        let bytes = Array("\(text)\n".utf8)
        // SAFETY: the array is valid for its count during the call; nobody is left to tell of a
        // failure to tell.
        _ = unsafe Glibc.write(descriptor, bytes, bytes.count)
    }
}
