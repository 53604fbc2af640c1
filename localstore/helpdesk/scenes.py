"""What the generated tickets talk about: troubles of customers and the answers they get, in several languages.

Placeholders: {product}, {version}, {order}, {city}, {code}, {days}, {customer} and {agent} (first names).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of trouble. `thread` alternates between agent and customer, beginning with the agent."""

    topic: str
    subject: str
    opening: str
    thread: tuple[str, ...]
    cause: str
    article: str


@dataclass(frozen=True, slots=True)
class Language:
    """A language with the names of people who write in it and the troubles they have."""

    code: str
    names: tuple[tuple[str, str], ...]
    greeting: str
    closing: str
    private_note: str
    scenes: tuple[Scene, ...]


ENGLISH = Language(
    code="en",
    names=(
        ("Maya", "Okafor"),
        ("Tom", "Hargreaves"),
        ("Priya", "Nair"),
        ("Ewan", "MacLeod"),
        ("Grace", "Lindqvist"),
        ("Owen", "O'Dowd"),
    ),
    greeting="Hi there,",
    closing="Kind regards,\n{customer}",
    private_note="Second report of {code} this week. Asked the device team; keep this one open until they answer.",
    scenes=(
        Scene(
            "battery",
            "{product} loses its charge overnight",
            "Since the update to {version} my {product} is empty every morning, although nothing is plugged in. "
            "Before, a charge lasted about {days} days. I already reset it twice 🔋➡️🪫.",
            (
                "Thank you for the details, {customer}. Could you send us the log from Settings → About → Diagnostics?",
                "Log is attached. I noticed that the radio stays on all night, maybe that helps?",
                "That was it: in {version} the radio never went to sleep. A fix is on its way to your device.",
                "Lasted three days now. Thanks, you may close this! 🎉",
            ),
            "the radio stayed awake after the update",
            "Why a device may lose its charge faster after an update",
        ),
        Scene(
            "delivery",
            "Order {order} has not arrived in {city}",
            'The tracking page has said "out for delivery" for {days} days. Nobody at the depot in {city} can find '
            "order {order}. I need the {product} for a trip on Friday.",
            (
                "I am sorry about that. I have opened a search with the carrier and will write again tomorrow.",
                "It's tomorrow :) Any news?",
                "The parcel is lost. A new one left our warehouse this morning by express, free of charge.",
            ),
            "the carrier lost the parcel",
            "What to do when tracking stands still",
        ),
        Scene(
            "login",
            "Locked out after changing my phone",
            "I moved to a new phone and the authenticator codes are refused now (error {code}). "
            "The recovery e-mail never arrives, I looked in spam too.",
            (
                "For your safety we need to check who you are first. Which city did the last order go to?",
                "{city}, about {days} weeks ago.",
                "Thanks, that matches. I have removed the old device; you can enrol the new one at the next login.",
                "Works. Brilliant service \N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}",
            ),
            "the old authenticator was still enrolled",
            "Moving the authenticator to a new phone",
        ),
        Scene(
            "invoice",
            "VAT missing on invoice for {order}",
            "Our accountant rejects the invoice for order {order}: it shows neither your VAT number nor ours.\n"
            "Please issue a corrected one; the old total was 1,249.00 EUR & must not change.",
            (
                "You are right, the number was not copied from your profile. A corrected invoice is attached.",
                "Received, all fine.",
            ),
            "the VAT number was not copied from the profile",
            "Correcting an invoice",
        ),
        Scene(
            "export",
            "CSV export breaks on quotes",
            'Names such as O\'Dowd or "The Anchor", Ltd. end up in the wrong column when I export from {product} '
            "{version}. Tabs\tand backslashes \\N vanish as well.",
            (
                "We can reproduce it: the export quotes only the first field. A developer is looking at it.",
                "Is there a workaround until then? We export daily at 06:00.",
                'Please choose "Excel" as the format; that path quotes every field. Fixed in the next release.',
            ),
            "only the first field was quoted",
            "Exporting data that holds quotes or line breaks",
        ),
    ),
)

GERMAN = Language(
    code="de",
    names=(
        ("Jürgen", "Weiß"),
        ("Anneliese", "Größler"),
        ("Sören", "Petersen"),
        ("Ayşe", "Yıldız"),
        ("Michaela", "von der Höh"),
    ),
    greeting="Guten Tag,",
    closing="Mit freundlichen Grüßen\n{customer}",
    private_note="Intern: Kunde ist schon zweimal vertröstet worden. Bitte bevorzugt behandeln ({code}).",
    scenes=(
        Scene(
            "pairing",
            "{product} lässt sich nicht mehr koppeln",
            "seit dem Update auf {version} findet mein Telefon das Gerät {product} nicht mehr. Die Fehlermeldung "
            "lautet »{code}«. Zurücksetzen, Batterie raus, anderes Telefon – alles probiert. 😤",
            (
                "Vielen Dank für die genaue Beschreibung. Welche Version zeigt das Gerät unter »Über« an?",
                "Da steht {version}, Seriennummer habe ich als Bild angehängt.",
                "Diese Charge hat ein bekanntes Problem. Wir schicken Ihnen ein Austauschgerät nach {city}.",
                "Austauschgerät ist da und läuft. Herzlichen Dank!",
            ),
            "eine Charge mit fehlerhaftem Funkmodul",
            "Kopplung schlägt fehl: die häufigsten Ursachen",
        ),
        Scene(
            "refund",
            "Rückerstattung für Bestellung {order} fehlt",
            "ich habe die Ware vor {days} Tagen zurückgeschickt, das Geld (89,90 €) ist noch immer nicht da. "
            "Laut Sendungsverfolgung liegt das Paket bei Ihnen in {city}.",
            (
                "Das Paket ist angekommen, die Prüfung dauert in der Regel drei Werktage.",
                "Die drei Werktage sind seit letzter Woche um …",
                "Sie haben recht, bitte entschuldigen Sie. Die Überweisung ist heute veranlasst worden.",
            ),
            "die Rücksendung wurde nicht verbucht",
            "So läuft eine Rückerstattung ab",
        ),
        Scene(
            "noise",
            "{product} pfeift beim Laden",
            "beim Laden macht das Gerät ein hohes Geräusch, etwa ab 80 %. Ist das gefährlich? Meine Katze verlässt "
            "jedes Mal den Raum. 🐈",
            (
                "Gefährlich ist es nicht: Das ist eine Spule im Netzteil. Wir tauschen es trotzdem gern aus.",
                "Ja bitte, die Katze dankt.",
                "Das neue Netzteil ist unterwegs. Das alte können Sie behalten oder entsorgen.",
            ),
            "Spulenfiepen im Netzteil",
            "Geräusche beim Laden",
        ),
        Scene(
            "privacy",
            "Auskunft nach Art. 15 DSGVO",
            "bitte teilen Sie mir mit, welche Daten Sie über mich gespeichert haben, und löschen Sie meine alte "
            "Anschrift in {city}.",
            (
                "Wir haben Ihre Anfrage erhalten und antworten innerhalb der Frist von einem Monat.",
                "Danke für die schnelle Rückmeldung.",
                "Die Auskunft liegt als PDF bei, die alte Anschrift ist gelöscht.",
            ),
            "Auskunft erteilt",
            "Welche Daten wir speichern und wie lange",
        ),
    ),
)

KOREAN = Language(
    code="ko",
    names=(("민준", "김"), ("서연", "이"), ("지우", "박"), ("하은", "정"), ("도윤", "최")),
    greeting="안녕하세요.",
    closing="감사합니다.\n{customer} 드림",
    private_note="[내부] 같은 증상 {days}건째입니다. {code} 로그를 개발팀에 전달했습니다.",
    scenes=(
        Scene(
            "sync",
            "{product} 동기화가 멈춥니다",
            "{version} 업데이트 이후 동기화가 43%에서 멈추고 오류 {code}가 나옵니다. 사무실 와이파이와 휴대폰 "
            "테더링 모두 같은 증상입니다. 급하게 확인 부탁드립니다 🙏",
            (
                "{customer}님, 불편을 드려 죄송합니다. 설정 > 정보에서 로그를 보내 주시겠어요?",
                "로그 첨부했습니다. 파일 이름에 한글이 있으면 멈추는 것 같아요.",
                "확인했습니다. 조합형 한글 파일 이름을 처리하지 못하는 문제였습니다. 수정 버전을 배포했습니다.",
                "이제 잘 됩니다. 빠른 대응 감사합니다! 👍",
            ),
            "조합형으로 저장된 한글 파일 이름",
            "동기화가 중간에 멈출 때 확인할 것",
        ),
        Scene(
            "payment",
            "주문 {order} 이중 결제",
            "주문 {order}가 카드에서 두 번 승인되었습니다. 한 건은 취소해 주세요. 금액은 각각 129,000원입니다.",
            (
                "결제 내역을 확인했습니다. 두 번째 승인은 오늘 중으로 취소됩니다.",
                "언제 카드에 반영되나요?",
                "카드사에 따라 {days}일 정도 걸립니다. 반영되지 않으면 다시 알려 주세요.",
            ),
            "결제 창에서 새로 고침을 눌러 두 번 승인됨",
            "이중 결제 취소 안내",
        ),
        Scene(
            "install",
            "{product} 설치 중 오류 {code}",
            "윈도우에서 설치가 90%쯤 되면 오류 {code}와 함께 되돌려집니다. 관리자 권한으로 실행해도 같습니다.\n"
            "경로는 C:\\Users\\민준\\AppData 입니다.",
            (
                "사용자 이름에 한글이 있을 때 생기는 문제입니다. 임시 폴더를 C:\\Temp로 바꿔 보시겠어요?",
                "바꾸니 설치됩니다!",
                "다행입니다. {version} 다음 버전에서 수정됩니다.",
            ),
            "임시 폴더 경로의 한글",
            "설치가 되돌려질 때",
        ),
    ),
)

JAPANESE = Language(
    code="ja",
    names=(("陽菜", "佐藤"), ("蓮", "鈴木"), ("葵", "髙橋"), ("大和", "𠮷田"), ("さくら", "渡邉")),
    greeting="お世話になっております。",
    closing="よろしくお願いいたします。\n{customer}",
    private_note="【社内】{code}の再現手順を確認済み。次回リリースで対応予定。",
    scenes=(
        Scene(
            "display",
            "{product}の画面で文字が化けます",
            "{version}に更新してから、氏名の「髙」や「𠮷」が「?」と表示されます。印刷しても同じです。"
            "月末の請求書までに直せますでしょうか。",
            (
                "{customer}様、ご連絡ありがとうございます。お使いの機種と設定画面の写真をお送りいただけますか。",
                "写真を添付しました。半角カナ(ｱｲｳ)は問題ありません。",
                "原因が分かりました。四バイト文字の扱いに不具合がありました。修正版をご用意しました。",
                "直りました。ありがとうございます😊",
            ),
            "四バイト文字の不具合",
            "氏名の文字が正しく表示されないとき",
        ),
        Scene(
            "return",
            "注文{order}の返品について",
            "届いた{product}の色が写真と違いました。{days}日以内なら返品できると伺いました。{city}から発送します。",
            (
                "申し訳ございません。返送用の伝票をメールでお送りしました。",
                "本日発送しました。追跡番号は{code}です。",
                "商品を受け取りました。本日返金の手続きをいたしました。",
            ),
            "商品写真の色が実物と異なっていた",
            "返品と返金の流れ",
        ),
        Scene(
            "alarm",
            "{product}の通知音が止まりません 🔔",
            "夜中に通知音が鳴り続け、電源を切るまで止まりませんでした。エラーは{code}です。〜♪と三回鳴ります。",
            (
                "ご迷惑をおかけしております。夜間モードの時刻はどのように設定されていますか。",
                "22:00〜翌6:00です。",
                "日付をまたぐ設定に不具合がございました。二つに分けて設定していただくと回避できます。",
            ),
            "日付をまたぐ夜間モード",
            "夜間モードの設定",
        ),
    ),
)

SPANISH = Language(
    code="es",
    names=(("Lucía", "Muñoz"), ("Íñigo", "Etxeberria"), ("Sofía", "Peña"), ("Andrés", "Güiza"), ("Nuria", "Solà")),
    greeting="Buenos días:",
    closing="Un saludo,\n{customer}",
    private_note="Nota interna: ya van {days} casos con {code}. Avisar a almacén antes de responder.",
    scenes=(
        Scene(
            "water",
            "Entra agua en el {product}",
            "¡Hola! Compré el {product} hace {days} semanas y, según la caja, aguanta la lluvia. Ayer en {city} llovió "
            "un poco y ahora la pantalla tiene niebla por dentro 🌧️😢.",
            (
                "Lamentamos lo ocurrido, {customer}. ¿Nos puede enviar una foto del número de serie?",
                "Aquí está. ¿Lo cubre la garantía?",
                "Sí, lo cubre. Mañana pasa un mensajero a recogerlo, no tiene que pagar nada.",
                "Recibido el nuevo. ¡Muchísimas gracias!",
            ),
            "junta mal colocada en fábrica",
            "Qué significa «resistente a la lluvia»",
        ),
        Scene(
            "booking",
            "Cambiar la fecha del pedido {order}",
            "Necesito que el pedido {order} llegue después del día 15, antes no habrá nadie en casa. "
            "¿Es posible cambiarlo sin perder el descuento del 20 %?",
            (
                "Claro que sí. ¿Le viene bien el día 17 por la mañana?",
                "Perfecto, por la mañana mejor.",
                "Hecho: entrega el 17 entre las 9:00 y las 13:00, con el mismo descuento.",
            ),
            "cambio de fecha",
            "Cambiar la fecha de entrega",
        ),
        Scene(
            "app",
            "La aplicación se cierra sola (error {code})",
            "Desde la versión {version} la aplicación se cierra al abrir el mapa de {city}. Pasa en dos teléfonos.",
            (
                "Gracias por avisar. ¿Tiene activado el ahorro de batería?",
                "Sí, siempre.",
                "Ahí está el problema. Desactívelo mientras tanto; la próxima versión lo corrige.",
            ),
            "el ahorro de batería bloqueaba la ubicación",
            "La aplicación se cierra al abrir el mapa",
        ),
    ),
)

LANGUAGES = {language.code: language for language in (ENGLISH, GERMAN, KOREAN, JAPANESE, SPANISH)}
