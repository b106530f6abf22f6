package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/server"
	"github.com/catena-run/catena/task"
)

// HandOverSignal asks a master to start the program again, in whatever version
// it is there now, to hand it the listeners and to end once it works.
const HandOverSignal = syscall.SIGUSR2

// handOverPatience is how long the successor may take until its workers are up.
const handOverPatience = 90 * time.Second

// Listeners are handed over as service managers do, see sd_listen_fds(3).
const (
	firstHandedFD = 3
	listenFDs     = "LISTEN_FDS"
	listenNames   = "LISTEN_FDNAMES"
	listenPID     = "LISTEN_PID"
)

// handedOver takes the listeners, by name, that a service manager or the master
// before this one has given to this process.
func handedOver() (map[string]*os.File, error) {
	count, names, pid := os.Getenv(listenFDs), os.Getenv(listenNames), os.Getenv(listenPID)
	for _, name := range []string{listenFDs, listenNames, listenPID} {
		_ = os.Unsetenv(name) // not for the workers
	}
	if count == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	list := strings.Split(names, ":")
	if err != nil || n != len(list) {
		return nil, task.Errorf(task.CodeInvalid, "%s listeners are handed over and %s names %q", count, listenNames, names).At(listenFDs).
			Fix("name each: %s, %s, %s or %s (FileDescriptorName= in systemd)", adminListener, server.KindHTTP, server.KindHTTPS, server.KindUnix)
	}
	files := map[string]*os.File{}
	for i, name := range list {
		syscall.CloseOnExec(firstHandedFD + i)
		files[name] = os.NewFile(uintptr(firstHandedFD+i), name)
	}
	return files, nil
}

// awaitHandOver waits for the signal and ends the master once a successor works.
// A successor that does not come up is ended, and this master goes on.
func (m *masterNode) awaitHandOver(ctx context.Context, o Options, end context.CancelFunc) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, HandOverSignal)
	defer signal.Stop(asked)
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
		}
		if len(o.Command) == 0 {
			m.log.Error("this process cannot hand over: it does not know how it was started")
			continue
		}
		m.log.WithField("program", o.Command[0]).Info("handing over to a new process")
		pid, err := m.handOver(ctx, o)
		if err != nil {
			m.log.WithError(err).Error("the new process did not come up; this one goes on")
			continue
		}
		if err := lifecycle.Notify(lifecycle.NotifyMainPID(pid), lifecycle.NotifyReady); err != nil {
			m.log.WithError(err).Warn("cannot tell the service manager of the new process")
		}
		m.log.WithField("successor", pid).Info("handed over")
		m.shared.HandOver()
		end()
		return
	}
}

// handOver starts the successor and returns its process id when it is ready.
func (m *masterNode) handOver(ctx context.Context, o Options) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, handOverPatience)
	defer cancel()
	ready, err := lifecycle.NewReadiness()
	if err != nil {
		return 0, err
	}
	defer ready.Close()
	admin, err := server.FileOf(m.admin)
	if err != nil {
		return 0, err
	}
	defer admin.Close()
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.ExtraFiles = []*os.File{admin}
	names := adminListener
	if m.health != nil {
		health, err := server.FileOf(m.health)
		if err != nil {
			return 0, err
		}
		defer health.Close()
		cmd.ExtraFiles, names = append(cmd.ExtraFiles, health), names+":"+healthListener
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, m.shared.Files()...)
	if kinds := m.shared.Kinds(); kinds != "" {
		names += ":" + strings.ReplaceAll(kinds, ",", ":")
	}
	cmd.Env = append(ready.Env(os.Environ()), fmt.Sprintf("%s=%d", listenFDs, len(cmd.ExtraFiles)), listenNames+"="+names)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // themselves: they outlive this process
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	waiting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() { stop(fmt.Errorf("it ended: %w", errors.Join(cmd.Wait(), errEnded))) }()
	if err := ready.Wait(waiting); err != nil {
		_ = cmd.Process.Kill()
		return 0, err
	}
	return cmd.Process.Pid, nil
}

var errEnded = errors.New("before it was ready")
