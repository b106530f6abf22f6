import { useState } from 'react'
import { packagePath, post, slow, useApi } from '../api'
import { Action } from '../dialogs'
import { bytes, shortDigest } from '../format'
import { Link } from '../router'
import type { PackageDetail, PackageVersion, Release } from '../types'
import { Badge, Empty, Heading, Loaded, Section, Table, Time } from '../ui'

const live = 'live'

export function PackagesPage() {
  const packages = useApi<PackageVersion[]>('/packages', slow / 2)
  return (
    <>
      <Heading title="Packages" />
      <Loaded query={packages}>
        {(list) => list.length === 0
          ? <Empty title="No package yet">Push a folder that holds a <code>catena.yaml</code> with <code>catena pkg push DIR</code>.</Empty>
          : (
            <Table label="Packages" head={['Package', 'Live version', 'Files', 'Size', 'Pushed by', 'Pushed']}>
              {list.map((p) => (
                <tr key={p.name}>
                  <td className="grow"><Link href={'/packages/' + p.name}>{p.name}</Link><div className="muted">{p.description}</div></td>
                  <td><Digest digest={p.digest} /></td>
                  <td className="number">{p.files}</td>
                  <td className="number">{bytes(p.size)}</td>
                  <td>{p.pushed_by}</td>
                  <td><Time at={p.created_at} /></td>
                </tr>
              ))}
            </Table>
          )}
      </Loaded>
    </>
  )
}

function Digest({ digest }: { digest: string }) {
  return digest ? <code title={digest}>{shortDigest(digest)}</code> : <span className="muted">none</span>
}

type Asked = { kind: 'promote'; version: PackageVersion } | { kind: 'rollback'; to: string }

export function PackagePage({ name }: { name: string }) {
  const versions = useApi<PackageVersion[]>(packagePath(name) + '/versions', slow / 2)
  const releases = useApi<Release[]>(packagePath(name) + '/releases', slow / 2)
  const [asked, setAsked] = useState<Asked | null>(null)
  const close = () => setAsked(null)
  const current = versions.data?.find((v) => v.channels?.includes(live))
  const previous = releases.data && before(releases.data)
  return (
    <>
      <Heading title={name}>
        {previous && <button className="danger" onClick={() => setAsked({ kind: 'rollback', to: previous })}>Roll back</button>}
      </Heading>
      {current?.description && <p className="lead">{current.description}</p>}
      {current && <Exports name={name} digest={current.digest} />}
      <Section title="Versions">
        <Loaded query={versions}>
          {(list) => (
            <Table label="Versions" head={['Version', 'Channels', 'Files', 'Size', 'Pushed by', 'Pushed', '']}>
              {list.map((v) => (
                <tr key={v.digest}>
                  <td><Digest digest={v.digest} /></td>
                  <td className="grow">{v.channels?.map((channel) => <span key={channel} className="tag">{channel}</span>)}</td>
                  <td className="number">{v.files}</td>
                  <td className="number">{bytes(v.size)}</td>
                  <td>{v.pushed_by}</td>
                  <td><Time at={v.created_at} /></td>
                  <td className="right"><button onClick={() => setAsked({ kind: 'promote', version: v })} aria-label={`Promote ${shortDigest(v.digest)}`}>Promote</button></td>
                </tr>
              ))}
            </Table>
          )}
        </Loaded>
      </Section>
      <Section title="Releases">
        <Loaded query={releases}>
          {(list) => (
            <Table label="Releases" head={['Release', 'Action', 'Channel', 'Version', 'By', 'When']}>
              {list.map((r) => (
                <tr key={r.id}>
                  <td className="number">{r.id}</td>
                  <td><Badge state={r.action} /></td>
                  <td><span className="tag">{r.channel}</span></td>
                  <td className="grow"><Digest digest={r.digest} /></td>
                  <td>{r.by}</td>
                  <td><Time at={r.at} /></td>
                </tr>
              ))}
            </Table>
          )}
        </Loaded>
      </Section>
      {asked?.kind === 'promote' && <PromoteDialog name={name} version={asked.version} close={close} />}
      {asked?.kind === 'rollback' && (
        <Action title={`Roll back ${name}`} action="Roll back" danger close={close} perform={() => post(packagePath(name) + '/rollback', { channel: live })}>
          <p>The channel <b>{live}</b> goes from <Digest digest={current?.digest ?? ''} /> back to the version it had before. New runs use that at once; runs that have begun keep theirs.</p>
        </Action>
      )}
    </>
  )
}

// before returns whether live has an earlier version to go back to.
function before(releases: Release[]) {
  const moves = releases.filter((r) => r.channel === live && r.digest)
  return moves.find((r) => r.digest !== moves[0]?.digest)?.digest
}

function Exports({ name, digest }: { name: string; digest: string }) {
  const detail = useApi<PackageDetail>(packagePath(name) + '?digest=' + encodeURIComponent(digest), () => 60_000)
  const exports = detail.data?.manifest?.exports
  if (!exports?.length) return null
  return <p className="exports"><span className="muted">exports</span> {exports.map((e) => <code key={e} className="tag">{name}:{e}</code>)}</p>
}

function PromoteDialog({ name, version, close }: { name: string; version: PackageVersion; close: () => void }) {
  const [channel, setChannel] = useState(live)
  return (
    <Action title={`Promote ${name}`} action="Promote" close={close} disabled={!channel}
      perform={() => post(packagePath(name) + '/promote', { digest: version.digest, channel })}>
      <p>Version <Digest digest={version.digest} /> becomes what the channel points at. New runs use it at once; runs that have begun keep theirs.</p>
      <label>Channel<input name="channel" required maxLength={60} value={channel} onChange={(event) => setChannel(event.target.value.trim())} /></label>
    </Action>
  )
}
