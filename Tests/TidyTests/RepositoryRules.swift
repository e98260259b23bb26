// SPDX-License-Identifier: Apache-2.0

/// All tracked text files, for rules that look at several.
struct Repository {
    let files: [SourceFile]
    /// Every tracked path, those of binary files included, and the folders above them.
    let paths: Set<String>

    init(files: [SourceFile], otherPaths: [String] = []) {
        self.files = files
        var paths = Set(files.map(\.path)).union(otherPaths)
        for path in paths {
            var folder = path[...]
            while let slash = folder.lastIndex(of: "/") {
                folder = folder[..<slash]
                paths.insert(String(folder))
            }
        }
        self.paths = paths
    }

    func file(_ path: String) -> SourceFile? { files.first { $0.path == path } }
}

/// Rules that need more than one file.
enum RepositoryRules {
    static let all: [@Sendable (Repository) -> [Finding]] = [
        { imports($0) }, { dependencies($0) }, { markdown($0) }, { testedLibraries($0) },
    ]

    // MARK: - Package.swift

    /// A target's row in Package.swift.
    struct Row {
        enum Kind: String {
            case module, executable, tests
        }

        let kind: Kind
        let name: String
        /// Our targets and the modules of other packages that it may import.
        let imports: Set<String>
    }

    /// What `let name = Target.Dependency.product(name: "Module", …)` stands for.
    static func products(_ manifest: SourceFile) -> [String: String] {
        let text = manifest.lines.joined(separator: " ")
        let pattern = /let (\w+) = Target\.Dependency\.product\(\s*name: "(\w+)"/
        return Dictionary(
            text.matches(of: pattern).map { (String($0.output.1), String($0.output.2)) },
            uniquingKeysWith: { first, _ in first })
    }

    static func rows(_ manifest: SourceFile) -> [Row] {
        let products = products(manifest)
        let text = manifest.lines.filter { !$0.contains("func ") }.joined(separator: " ")
        let pattern = /(module|executable|tests)\(\s*"(\w+)",\s*\[([^\]]*)\]/
        return text.matches(of: pattern).map { match in
            let items = match.output.3.split(separator: ",").map { item in
                let word = item.filter { $0.isLetter || $0.isNumber || $0 == "_" }
                return item.contains("\"") ? word : products[word] ?? word
            }
            return Row(
                kind: Row.Kind(rawValue: String(match.output.1)) ?? .module,
                name: String(match.output.2), imports: Set(items))
        }
    }

    /// What comes with the toolchain or the system.
    private static let system: Set<String> = [
        "Swift", "Glibc", "Foundation", "Synchronization", "Testing", "Dispatch", "RegexBuilder",
    ]

    static func imports(_ repository: Repository) -> [Finding] {
        guard let manifest = repository.file("Package.swift") else { return [] }
        let rows = Dictionary(
            rows(manifest).map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        return repository.files.flatMap { file -> [Finding] in
            guard file.suffix == "swift", let target = file.target, let row = rows[target] else {
                return []
            }
            return file.code.enumerated().compactMap { index, line in
                guard let module = SwiftRules.importedModule(line), !system.contains(module),
                    !row.imports.contains(module)
                else { return nil }
                return file.finding(
                    index, "\(target) imports \(module), which its row in Package.swift lacks")
            }
        }
    }

    static func dependencies(_ repository: Repository) -> [Finding] {
        let path = "docs/dependencies.md"
        let text = repository.file(path)?.lines.joined(separator: "\n") ?? ""
        return repository.files.filter { $0.name == "Package.swift" }.flatMap { manifest in
            manifest.lines.enumerated().flatMap { index, line in
                let packages = line.matches(of: /url: "[^"]*\/([^"\/]+)"/).map(\.output.1)
                let libraries = line.matches(of: /linkedLibrary\("(\w+)"/).map {
                    "lib" + $0.output.1
                }
                return (packages.map(String.init) + libraries).filter { !text.contains($0) }
                    .map { manifest.finding(index, "\($0) is not described in \(path)") }
            }
        }
    }

    static func testedLibraries(_ repository: Repository) -> [Finding] {
        guard let manifest = repository.file("Package.swift") else { return [] }
        let imported = Set(
            repository.files.filter { $0.path.hasPrefix("Tests/") }
                .flatMap { $0.code.compactMap { SwiftRules.importedModule($0) } })
        return rows(manifest).filter { $0.kind == .module && !imported.contains($0.name) }
            .map { manifest.finding(0, "no test imports Sources/\($0.name)") }
    }

    // MARK: - Markdown

    static func markdown(_ repository: Repository) -> [Finding] {
        repository.files.filter { $0.suffix == "md" }.flatMap { file in
            let prose = proseLines(file)
            let titles = prose.filter { $0.text.hasPrefix("# ") }
            var findings = prose.flatMap { deadLinks($0.text, at: $0.index, file, repository) }
            if titles.count != 1 {
                findings.append(
                    file.finding(0, "\(titles.count) titles ('# …'); a page has one"))
            }
            return findings
        }
    }

    /// The lines outside of code fences.
    private static func proseLines(_ file: SourceFile) -> [(index: Int, text: String)] {
        var isCode = false
        return file.lines.enumerated().compactMap { index, line in
            if line.drop(while: { $0 == " " }).hasPrefix("```") {
                isCode.toggle()
                return nil
            }
            return isCode ? nil : (index, line)
        }
    }

    private static func deadLinks(
        _ text: String, at index: Int, _ file: SourceFile, _ repository: Repository
    ) -> [Finding] {
        let plain = text.replacing(/`[^`]*`/, with: "")
        return plain.matches(of: /\]\(([^)\s]+)\)/).compactMap { match in
            let link = match.output.1.prefix { $0 != "#" }
            guard !link.isEmpty, !link.contains(":") else { return nil }
            let folder = file.path.split(separator: "/").dropLast()
            var parts = link.hasPrefix("/") ? [] : Array(folder)
            for part in link.split(separator: "/") where part != "." {
                if part != ".." {
                    parts.append(part)
                } else if !parts.isEmpty {
                    parts.removeLast()
                }
            }
            return repository.paths.contains(parts.joined(separator: "/"))
                ? nil : file.finding(index, "dead link: \(link)")
        }
    }
}
