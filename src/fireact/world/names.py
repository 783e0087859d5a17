"""Names of currencies (ISO 4217) and languages (ISO 639), for the codes that the country records use."""

from __future__ import annotations

CURRENCIES = {
    "AED": "Emirati dirham", "AFN": "Afghan afghani", "ALL": "Albanian lek", "AMD": "Armenian dram",
    "AOA": "Angolan kwanza", "ARS": "Argentine peso", "AUD": "Australian dollar", "AZN": "Azerbaijani manat",
    "BAM": "convertible mark", "BBD": "Barbadian dollar", "BDT": "Bangladeshi taka", "BHD": "Bahraini dinar",
    "BIF": "Burundian franc", "BND": "Brunei dollar", "BOB": "boliviano", "BRL": "Brazilian real",
    "BSD": "Bahamian dollar", "BTN": "ngultrum", "BWP": "pula", "BYN": "Belarusian ruble", "BZD": "Belize dollar",
    "CAD": "Canadian dollar", "CDF": "Congolese franc", "CHF": "Swiss franc", "CLP": "Chilean peso",
    "CNY": "renminbi", "COP": "Colombian peso", "CRC": "colon", "CUP": "Cuban peso", "CVE": "Cape Verdean escudo",
    "CZK": "koruna", "DKK": "Danish krone", "DOP": "Dominican peso", "DZD": "Algerian dinar", "EGP": "Egyptian pound",
    "ERN": "nakfa", "ETB": "birr", "EUR": "euro", "FJD": "Fijian dollar", "GBP": "pound sterling", "GEL": "lari",
    "GHS": "cedi", "GMD": "dalasi", "GTQ": "quetzal", "GYD": "Guyanese dollar", "HNL": "lempira", "HTG": "gourde",
    "HUF": "forint", "IDR": "rupiah", "INR": "Indian rupee", "IQD": "Iraqi dinar", "IRR": "Iranian rial",
    "ISK": "Icelandic krona", "JMD": "Jamaican dollar", "JOD": "Jordanian dinar", "JPY": "yen",
    "KES": "Kenyan shilling", "KGS": "Kyrgyz som", "KHR": "riel", "KMF": "Comorian franc", "KPW": "North Korean won",
    "KRW": "South Korean won", "KWD": "Kuwaiti dinar", "KZT": "tenge", "LAK": "kip", "LBP": "Lebanese pound",
    "LKR": "Sri Lankan rupee", "LRD": "Liberian dollar", "LSL": "loti", "LYD": "Libyan dinar",
    "MAD": "Moroccan dirham", "MDL": "Moldovan leu", "MGA": "ariary", "MKD": "denar", "MMK": "kyat", "MNT": "tugrik",
    "MRU": "ouguiya", "MUR": "Mauritian rupee", "MVR": "rufiyaa", "MWK": "Malawian kwacha", "MXN": "Mexican peso",
    "MYR": "ringgit", "MZN": "metical", "NAD": "Namibian dollar", "NGN": "naira", "NIO": "cordoba",
    "NOK": "Norwegian krone", "NPR": "Nepalese rupee", "NZD": "New Zealand dollar", "OMR": "Omani rial",
    "PAB": "balboa", "PEN": "sol", "PGK": "kina", "PHP": "Philippine peso", "PKR": "Pakistani rupee", "PLN": "zloty",
    "PYG": "guarani", "QAR": "Qatari riyal", "RON": "Romanian leu", "RSD": "Serbian dinar", "RUB": "Russian ruble",
    "RWF": "Rwandan franc", "SAR": "Saudi riyal", "SBD": "Solomon Islands dollar", "SDG": "Sudanese pound",
    "SEK": "Swedish krona", "SLL": "leone", "SOS": "Somali shilling", "SRD": "Surinamese dollar",
    "SSP": "South Sudanese pound", "SYP": "Syrian pound", "SZL": "lilangeni", "THB": "baht", "TJS": "somoni",
    "TMT": "Turkmen manat", "TND": "Tunisian dinar", "TRY": "lira", "TTD": "Trinidad and Tobago dollar",
    "TZS": "Tanzanian shilling", "UAH": "hryvnia", "UGX": "Ugandan shilling", "USD": "US dollar",
    "UYU": "Uruguayan peso", "UZS": "Uzbekistani som", "VES": "bolivar", "VND": "dong", "VUV": "vatu",
    "XAF": "Central African franc", "XOF": "West African franc", "YER": "Yemeni rial", "ZAR": "rand",
    "ZMW": "Zambian kwacha",
}  # fmt: skip

LANGUAGES = {
    "am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian", "bg": "Bulgarian", "bi": "Bislama",
    "bn": "Bengali", "bs": "Bosnian", "cnr": "Montenegrin", "cs": "Czech", "da": "Danish", "de": "German",
    "dv": "Dhivehi", "dz": "Dzongkha", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian",
    "fa": "Persian", "fi": "Finnish", "fil": "Filipino", "fr": "French", "hi": "Hindi", "hr": "Croatian",
    "ht": "Haitian Creole", "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "is": "Icelandic",
    "it": "Italian", "ja": "Japanese", "ka": "Georgian", "kk": "Kazakh", "km": "Khmer", "ko": "Korean",
    "ky": "Kyrgyz", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "mn": "Mongolian",
    "ms": "Malay", "mt": "Maltese", "my": "Burmese", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "ps": "Pashto", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "rw": "Kinyarwanda", "si": "Sinhala",
    "sk": "Slovak", "sl": "Slovene", "so": "Somali", "sq": "Albanian", "sr": "Serbian", "sv": "Swedish",
    "sw": "Swahili", "tg": "Tajik", "th": "Thai", "ti": "Tigrinya", "tk": "Turkmen", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese", "zh": "Chinese", "zu": "Zulu",
}  # fmt: skip

SUBREGIONS = {"South-eastern Asia": "Southeast Asia", "Latin America and the Caribbean": "Latin America"}
